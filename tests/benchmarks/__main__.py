"""`make benchmark`: every benchmark, one table each."""

from tests.benchmarks import folding, measuring, reading

reading.main()
measuring.main()
folding.main()
