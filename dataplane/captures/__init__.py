"""Captures: pcap and pcapng files, the frames in them, and the bytes of IP packets. Knows no node and no rules."""
