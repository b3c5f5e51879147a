"""Replay: the packets of a capture through a node, each at its own time. What would the node have done with them?"""
