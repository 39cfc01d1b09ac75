# From a plain checkout, as root, on Debian or Ubuntu: `make demo` shows what nfkeep does, `make test` runs the suite.
# Both first install what is missing: system packages, a virtual environment in .venv, and the compiled part.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-builtin-rules

PACKAGES := iptables nftables ipset nfacct conntrack iproute2 \
	libxtables-dev \
	fail2ban openssh-client openssh-server \
	gcc libc6-dev pkg-config python3-venv python3-dev

# those of them that would start a service, which the tests neither need nor want on this host, and its units
SERVICES := fail2ban:fail2ban.service openssh-server:ssh.service openssh-server:ssh.socket

# the Python that .venv is made with: the system's, whose headers apt installs, or else the first one on PATH
PYTHON := $(firstword $(wildcard /usr/bin/python3) python3)

SOURCES := setup.py pyproject.toml MANIFEST.in $(wildcard csrc/*.py csrc/*.c csrc/*.h)

ifneq ($(filter demo test setup packages,$(MAKECMDGOALS)),)
ifneq ($(shell id -u),0)
$(error this needs root, for system packages and network namespaces; run: sudo make $(MAKECMDGOALS))
endif
endif

.PHONY: help
help: ## say what there is to make
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' $(MAKEFILE_LIST)

.PHONY: demo
demo: setup ## replay the incident in network namespaces, with plain iptables and with nfkeep
	@.venv/bin/nfkeep demo

.PHONY: test
test: setup ## run the whole suite through tox, against the real kernel
	@.venv/bin/tox

.PHONY: setup
setup: packages .venv/.installed ## install what is missing, and nothing else

.PHONY: packages
packages:
	@missing=(); \
	for package in $(PACKAGES); do \
		if ! dpkg-query -W -f='$${db:Status-Status}\n' "$$package" 2>/dev/null | grep -qx installed; then \
			missing+=("$$package"); \
		fi; \
	done; \
	if [ $${#missing[@]} = 0 ]; then exit 0; fi; \
	if ! command -v apt-get >/dev/null; then \
		echo "nfkeep: this is not Debian or Ubuntu; trying without these packages: $${missing[*]}" >&2; \
		exit 0; \
	fi; \
	echo "installing $${missing[*]}"; \
	export DEBIAN_FRONTEND=noninteractive NEEDRESTART_SUSPEND=1; \
	apt-get -qq update || echo "nfkeep: apt-get update failed; trying with the package lists as they are" >&2; \
	fresh=(); \
	for service in $(SERVICES); do \
		if [[ " $${missing[*]} " = *" $${service%:*} "* ]]; then fresh+=("$${service#*:}"); fi; \
	done; \
	if [ $${#fresh[@]} != 0 ]; then systemctl mask --runtime --quiet "$${fresh[@]}" 2>/dev/null || true; fi; \
	apt-get -qq -o DPkg::Lock::Timeout=300 install --yes --no-install-recommends "$${missing[@]}" >/dev/null \
		|| status=$$?; \
	if [ $${#fresh[@]} != 0 ]; then \
		systemctl unmask --runtime --quiet "$${fresh[@]}" 2>/dev/null || true; \
		systemctl disable --quiet "$${fresh[@]}" 2>/dev/null || true; \
	fi; \
	exit $${status:-0}

.venv/.installed: $(SOURCES) | packages
	@if ! .venv/bin/python -m pip --version >/dev/null 2>&1; then \
		echo "making .venv with $(PYTHON)"; \
		$(PYTHON) -m venv --clear .venv; \
	fi
	@echo "building and installing nfkeep into .venv"
	@.venv/bin/python -m pip install --quiet --disable-pip-version-check -e '.[cli,testing]' 'tox>=4.44'
	@touch $@

.PHONY: clean
clean: ## remove everything that was built, .venv included
	@rm -rf .venv .tox build dist *.egg-info docs/_build .mypy_cache .pytest_cache .ruff_cache .hypothesis
	@find nfkeep csrc \( -name '*.so' -o -name '*.o' -o -name '_xtables.c' -o -name '_conntrack.c' -o -name '_nft.c' \) -delete
