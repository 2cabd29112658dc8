"""What is served: the models, how they are made, and one application of each that every server and limit runs.

An application decodes a JSON document into a payload and scores several payloads in one call. It knows no server and
no protocol, so that servers differ in nothing but themselves.
"""
