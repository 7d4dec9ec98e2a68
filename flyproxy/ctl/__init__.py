"""flyproxyctl: one file per noun.

``main`` is the entry, ``cli`` the common options, ``client`` the sockets, ``output`` the words.
"""
