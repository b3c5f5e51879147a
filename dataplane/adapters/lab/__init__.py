"""The real kernel as referee: a node made of a snapshot in namespaces of its own, packets sent through it, what became of each.

A namespace lives as long as the process; nothing outside is touched but ``net.ipv4.route.error_cost`` (see ration).
"""
