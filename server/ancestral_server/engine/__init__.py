"""The engine: from a job to its answer. Knows nothing of gRPC.

    Endpoint                one role of one model version; two lanes of a one-shot role, one of a sampler
     └ Lane                 submit, turn, close, healthy; the lock; tells the callers
        ├ Scheduler         decides: submit, next, finish, fail, abandon. No thread, no clock, no event loop
        │  ├ OneShotScheduler   which rows the next batch holds (batching), whether it waits for company (policy)
        │  └ RasterScheduler    which samples are in the slots, and paint their next row together
        │     both: queue, admission (who is refused), costs (what runs take), memory_limit (how large they may be)
        ├ Runner            has the turns taken: `turn` = next, run, finish or fail
        │  ├ LoopRunner         the event loop itself, within `submit`: short runs of the calls of few callers
        │  ├ ThreadRunner       a thread of the lane's own: long runs, and those of many callers
        │  └ PoolRunner         the WorkerPool, which all bulk and all samplers share: leaves a core to single calls
        ├ Supervisor        which seats have failed outside of a run, and when they are tried again
        └ LaneStats         what was done, of all lanes of a role

Who owns what: a job is the event loop's until `submit` and the scheduler's, under the lane's lock, until its future is
done; but `cancelled`, which the event loop sets at any time. A step is of whoever runs it, without the lock. A lane has
as many seats as runs may go on at a time, and a seat has one turn at a time. Where a runner's thread is not the event
loop's, answers cross to it once, in one post per turn.

Read in this order: job, scheduler, lane, runners, pool; then one_shot and raster; endpoint puts them together.
"""
