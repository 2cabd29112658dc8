"""HTTP/1.1: a C parser on an asyncio protocol, strict limits, and a bridge that lets Tornado answer on the same port.

Takes sockets, gives complete requests to a handler and writes complete responses. Never decodes a body.
"""
