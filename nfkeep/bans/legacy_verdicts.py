"""What a ban list does to a packet, as rules that iptables reads: one or two for each service.

Pure: policies in, texts out. REJECT is for the table filter only (net/ipv4/netfilter/ipt_REJECT.c).
"""

from __future__ import annotations

from collections.abc import Iterator
from types import MappingProxyType

from nfkeep.bans.values import Action, Policy, Rejection, Service
from nfkeep.model import Family


def verdicts(policy: Policy, family: Family) -> Iterator[str]:
    """Rules for what comes from a banned source.

    Neighbour discovery passes as ARP does, which iptables never sees: else a neighbour would get no answer, not even
    the one that rejects it.
    """
    protocols = {service.protocol for service in policy.services}
    if family is Family.IPV6 and policy.action is not Action.COUNT and (not protocols or _ICMPV6 in protocols):
        yield from (f"-p ipv6-icmp -m icmp6 --icmpv6-type {message} -j RETURN" for message in _NEIGHBOUR_DISCOVERY)
    for service in policy.services:
        for packets in _to_service(service, family):
            yield packets + _target(policy, service.protocol, family)
    if not policy.services:
        if policy.action is Action.REJECT and policy.rejection is Rejection.TCP_RESET:
            yield f"-p tcp{_target(policy, _TCP, family)}"
        yield _target(policy, 0, family)


def _to_service(service: Service, family: Family) -> Iterator[str]:
    """How its packets look: by their port, and by the port they had before NAT sent them on, to a container say."""
    if service.protocol == _AH and family is Family.IPV6:
        yield "-m ah"  # there it is an extension header, which -p passes over
    elif (service.low, service.high) == (0, 65535):
        yield f"-p {service.protocol}"
    else:
        ports = f"{service.low}:{service.high}" if service.low < service.high else f"{service.low}"
        yield f"-p {service.protocol} -m multiport --dports {ports}"
        yield f"-p {service.protocol} -m conntrack --ctdir ORIGINAL --ctorigdstport {ports}"


def _target(policy: Policy, protocol: int, family: Family) -> str:
    if policy.action is Action.COUNT:
        return ""
    if policy.action is Action.DROP:
        return " -j DROP"
    if policy.rejection is not Rejection.TCP_RESET:
        return f" -j REJECT --reject-with {_REJECT_WITH[family, policy.rejection]}"
    answer = "tcp-reset" if protocol == _TCP else _REJECT_WITH[family, Rejection.PORT_UNREACHABLE]
    return f" -j REJECT --reject-with {answer}"


_TCP, _AH, _ICMPV6 = 6, 51, 58
_NEIGHBOUR_DISCOVERY = ("neighbour-solicitation", "neighbour-advertisement")

_REJECT_WITH = MappingProxyType(
    {
        (Family.IPV4, Rejection.PORT_UNREACHABLE): "icmp-port-unreachable",
        (Family.IPV4, Rejection.HOST_UNREACHABLE): "icmp-host-unreachable",
        (Family.IPV4, Rejection.ADMIN_PROHIBITED): "icmp-admin-prohibited",
        (Family.IPV4, Rejection.NO_ROUTE): "icmp-net-unreachable",
        (Family.IPV6, Rejection.PORT_UNREACHABLE): "icmp6-port-unreachable",
        (Family.IPV6, Rejection.HOST_UNREACHABLE): "icmp6-addr-unreachable",
        (Family.IPV6, Rejection.ADMIN_PROHIBITED): "icmp6-adm-prohibited",
        (Family.IPV6, Rejection.NO_ROUTE): "icmp6-no-route",
    }
)
