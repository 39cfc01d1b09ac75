"""What the errors of the table engine mean, as iptables says it, so that people find it."""

from __future__ import annotations

import errno

UNNAMED = "No chain/target/match by that name"
WORDS = {
    ("insert", errno.E2BIG): "Index of insertion too big",
    ("insert", errno.EINVAL): "Target problem: a base chain cannot be jumped to",
    ("replace", errno.E2BIG): "Index of replacement too big",
    ("replace", errno.EINVAL): "Target problem: a base chain cannot be jumped to",
    ("delete", errno.ENOENT): "Bad rule (does a matching rule exist in that chain?)",
    ("delete at", errno.E2BIG): "Index of deletion too big",
    ("delete chain", errno.EINVAL): "Can't delete built-in chain",
    ("delete chain", errno.EMLINK): "Can't delete chain with references left",
    ("delete chain", errno.ENOTEMPTY): "Chain is not empty",
    ("create chain", errno.EEXIST): "Chain already exists",
    ("create chain", errno.EINVAL): "Chain name too long",
    ("policy", errno.ENOENT): "Bad built-in chain name",
    ("policy", errno.EINVAL): "Bad policy name",
}
COMMIT_WORDS = {
    errno.ELOOP: "Loop found in table",
    errno.ENOENT: "No chain/target/match by that name",
    errno.EINVAL: "Invalid argument: an extension refuses its options, this table or this chain",
}
