"""`make benchmark`: every benchmark, one table each."""

from tests.benchmarks import drift, folding, measuring, reading

reading.main()
measuring.main()
folding.main()
drift.main()
