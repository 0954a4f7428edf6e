# Everything that is done with this repository. On a machine with Swift and git only, `make demo` and `make test` work as they
# are: they install what else they need (Debian 12).

LAB := /tmp/holdfast-lab
NODES := 4
# The block data path is optimised in debug builds too (Package.swift), so one build serves tests and demonstration.
HOLDFAST := .build/debug/holdfast
IMAGE := .build/redis.tar

.PHONY: setup build test format lint protos demo demo-down torture bench release

setup:
	@scripts/setup

build: setup
	swift build --product holdfast
	swift build --product holdfast-task

release: setup
	swift build -c release --product holdfast
	swift build -c release --product holdfast-task

# Building the test product alone leaves out the executables of dependencies, a C++ compiler of protocol buffers among them.
# What computes without a pause, the simulators above all, would starve tests that wait; the system tests have the machine to
# themselves, since their machines ping each other every second, and so have elections, since a leader that stands still for
# half a second gives way.
test: setup lint
	swift build --product holdfast
	swift build --product holdfast-task
	swift build --product holdfastPackageTests
	scripts/run-tests --skip 'SystemTests|SimulationTests|LinearizabilityTests|BlockCoreTests|BlockManagerTests|StoreClusterTests|CoordinationTests'
	HOLDFAST_SIM_SECONDS=$${HOLDFAST_SIM_SECONDS:-120} scripts/run-tests --filter 'SimulationTests|LinearizabilityTests|BlockCoreTests'
	scripts/run-tests --no-parallel --filter 'SystemTests|BlockManagerTests|StoreClusterTests|CoordinationTests'

lint:
	@swift format lint --strict --parallel --recursive Package.swift $(shell git ls-files '*.swift' | grep -v '\.pb\.swift$$')
	scripts/tidy

format:
	swift format -i --parallel $(shell git ls-files '*.swift' | grep -v '\.pb\.swift$$')

protos: setup
	scripts/make-protos

$(IMAGE): scripts/make-redis-image
	scripts/make-redis-image $@

demo: build
	@$(MAKE) --no-print-directory $(IMAGE)
	scripts/demo $(HOLDFAST) $(LAB) $(NODES) $(IMAGE)

demo-down:
	@if [ -e $(LAB)/lab.json ]; then $(HOLDFAST) lab down --dir $(LAB); fi
	rm -rf --one-file-system $(LAB)

torture: build
	@$(MAKE) --no-print-directory $(IMAGE)
	scripts/torture $(HOLDFAST) $(LAB)-torture $(IMAGE)

bench: release
	@$(MAKE) --no-print-directory $(IMAGE)
	Benchmarks/block.sh .build/release/holdfast
	Benchmarks/volumes.sh .build/release/holdfast
	Benchmarks/units.sh .build/release/holdfast
	Benchmarks/snapshots.sh .build/release/holdfast
	Benchmarks/failover.sh .build/release/holdfast $(IMAGE)
