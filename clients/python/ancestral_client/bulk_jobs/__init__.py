"""`ancestral bulk`: whole data sets through a model, from Parquet, pictures or arrays to Parquet.

The input is cut into parts, always alike. A worker makes one file of each part, which is there as a whole or not at
all; so a job may be interrupted anywhere, and goes on with the parts that are missing.

command.py     the command: its arguments, and what it says
plan.py        from arguments to a Job: asks the server what it can do, before anything is written
job.py         what workers have to know: Asked, Job, Part, Done
sources/       what the input is, a file a kind: Parquet, pictures, arrays; cut into parts, and read
roles.py       images to the columns of a role
servers.py     who is asked: servers elsewhere, or one of our own (own_server.py) for a bundle
output.py      the folder that is written: its manifest, and which parts it has
worker.py      a part from the input to the output
local.py, on_ray.py   the engines: threads of this process, or actors of Ray
progress.py    how far it is
"""
