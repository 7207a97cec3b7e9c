"""What the calls of a client mean, a file a role: how its requests are made of arguments, and its results of replies.

A new role is a message and a method in the proto, a file here, its result in `results`, and its name in both classes of
`client`.
"""
