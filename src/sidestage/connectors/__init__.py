"""Outside systems, loaded by name when they are used.

Each is described by a module that can be loaded without the system's client; the client comes with the extra
of the same name and is loaded when a source or sink is opened.
"""
