"""`make benchmark`: every benchmark, one table each."""

from tests.benchmarks import measuring, reading

reading.main()
measuring.main()
