"""What crosses tasks: slots of concurrency keys, circuits of services, rates of namespaces.

Each is an actor like a task, with a stream of its own: pure `decide` and `evolve`. `line` is the order in which who
waits is let through; `slots`, `circuit` and `rate` say when.
"""
