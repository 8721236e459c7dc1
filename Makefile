# What people type. Each target sets up what it needs: Rust, a C compiler and Python 3 with pip are enough.
.PHONY: build demo demo-preferences test lint bench site release help

help:
	@echo "make build   the program to install: target/release/lorafit"
	@echo "make demo    train an adapter on a real model and hold it against the base (3 minutes on 2 cores, after the first build)"
	@echo "make demo-preferences   train a real model on preferences between its own answers (under 6 minutes on 2 cores)"
	@echo "make test    all tests; fetches the demo model for those that need it"
	@echo "make lint    formatting, clippy and documentation, warnings denied"
	@echo "make bench   training speed of three model shapes on this machine"
	@echo "make site    the documentation as a site: target/site/index.html"
	@echo "make release an archive for other machines: dist/ (docs/releasing.md)"

build:
	cargo build --release --locked -p lorafit

demo:
	scripts/demo.sh

demo-preferences:
	scripts/demo_preferences.sh

test:
	scripts/test.sh

lint:
	scripts/lint.sh

bench: build
	scripts/bench.sh

site:
	scripts/site.sh

release:
	scripts/release.sh
