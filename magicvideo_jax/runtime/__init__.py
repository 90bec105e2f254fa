"""The processes of a job: rendezvous, locks, preemption, exit codes, progress, compilation."""
