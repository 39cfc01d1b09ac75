"""From iptables to nftables: translation, proven packet by packet."""
