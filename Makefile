# Each target sets up everything it needs, from nothing, in .venv.
PYTHON ?= python3

.PHONY: demo test check docs wheel clean

demo: .venv/ready        ## encode the embedded model at k = 2…8, measure, draw, write
	.venv/bin/kbit demo

test: .venv/ready        ## lint, types, floors, docs, then all tests
	scripts/check
	scripts/test

check: .venv/ready       ## lint, types and floors only
	scripts/check

docs: .venv/ready        ## regenerate the generated pages and pictures
	scripts/docs

wheel:                   ## a wheel for this Python in dist/
	$(PYTHON) -m pip wheel --no-deps -w dist .

.venv/ready: pyproject.toml constraints.txt CMakeLists.txt $(shell find csrc src -type f -not -name '*.pyc' -not -name '*.so' 2>/dev/null)
	PYTHON=$(PYTHON) scripts/setup
	@touch .venv/ready

clean:
	rm -rf .venv build dist kbit-demo
