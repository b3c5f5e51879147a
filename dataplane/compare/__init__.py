"""The same question to several variants of one node: kube-proxy's modes, versions, snapshots. Which packets change their fate?"""
