"""`make benchmark`: every benchmark, one table each."""

from tests.benchmarks import (
    drift,
    folded,
    folding,
    measuring,
    reading,
    recording,
    residual,
    starting,
    surveying,
)

starting.main()
reading.main()
measuring.main()
folding.main()
folded.main()
drift.main()
residual.main()
recording.main()
surveying.main()
