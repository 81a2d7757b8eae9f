"""The bridge: between a kernel's ZMQ channels and the sockets of its clients.

It passes messages on fast, holds what a client has not taken within bounds, and drops nothing
without saying so. It leaves who may enter to ``guard``, and writes only to an outlet, so that it
need not know what carries the frames.

``wire``, ``backlog`` and ``routing`` do no I/O.
"""
