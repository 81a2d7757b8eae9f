"""The rules of the contract as tables and pure functions.

Nothing here does I/O or knows a framework: servers, clients, documentation and tests in any
language read the same tables. A test keeps tornado, zmq and asyncio out.
"""
