"""Every rule of the corpus, in the kernel: our text, our bytes and iptables' own listing agree."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from corpus import extension_lines, needs_corpus

import nfkeep
from nfkeep import Family, Rule

if TYPE_CHECKING:
    from nfkeep.namespaces import Namespace

pytestmark = pytest.mark.kernel


@needs_corpus
@pytest.mark.parametrize("family", list(Family), ids=str)
def test_what_iptables_lists_is_what_we_print(namespace: Namespace, family: Family) -> None:
    """A rule that iptables takes is listed by iptables as we print it, read from the kernel and parsed from text."""
    iptables = "iptables-legacy" if family is Family.IPV4 else "ip6tables-legacy"
    seen, faults = 0, []
    for line in extension_lines():
        if not line.valid or family not in line.families:
            continue
        chain = line.chains[0]
        if namespace.run(f"{iptables} -t {line.table} -A {chain} {line.rule}", check=False).returncode:
            continue  # not for this family, or not in this kernel
        listed = namespace.run(f"{iptables} -t {line.table} -S {chain}").stdout.splitlines()[1]
        with namespace:
            (rule,) = nfkeep.read(line.table, family).chains[chain].rules
        namespace.run(f"{iptables} -t {line.table} -F {chain}")
        seen += 1
        expected = listed.removeprefix(f"-A {chain}").strip()
        if str(rule) != expected or str(Rule.parse(line.rule, family)) != expected:
            faults.append(f"{line.file}: {line.rule}: {expected} | {rule} | {Rule.parse(line.rule, family)}")
    assert faults == []
    assert seen > 250
