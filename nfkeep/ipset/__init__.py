"""ipset: sets of addresses in the kernel, over raw nfnetlink, that grow while others use them."""
