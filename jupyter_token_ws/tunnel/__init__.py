"""The tunnel over tornado: carriers, and websockets of the server that are streams of a tunnel.

The rules are ``protocol.tunnel``'s; who may enter is settled by the guard, for a stream as for a socket.
"""
