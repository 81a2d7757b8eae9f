"""The guard: every websocket's door.

It stands before each websocket handler of a server, takes the token out of the subprotocol, lets
the server's own identity provider judge it, tells refusals by close codes, and keeps the list of
open sockets. It leaves the rules to ``protocol`` and everything behind the door to others.
"""
