"""`make benchmark`: every benchmark, one table each."""

from tests.benchmarks import reading

reading.main()
