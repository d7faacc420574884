# tokenfork: `make demo` and `make test` set up all they need.
VENV   := $(or $(TOKENFORK_VENV),$(CURDIR)/.venv)
MODELS := $(or $(TOKENFORK_MODELS),$(CURDIR)/.cache/models)
export TOKENFORK_VENV = $(VENV)
export TOKENFORK_MODELS = $(MODELS)

.PHONY: all build install demo test check bench bench-plan bench-infer clean

all: build

build: ## bin/tokenfork
	go build -trimpath -o bin/tokenfork ./cmd/tokenfork

install: ## into $GOBIN
	go install -trimpath ./cmd/tokenfork

setup: ## vLLM, the model pair and what the tests need
	scripts/setup-vllm
	$(VENV)/bin/python scripts/make-pair $(MODELS)

demo: build setup ## the main job on an embedded default
	scripts/demo

test: build setup ## all tests, with real vLLM, Slurm and S3
	scripts/setup-tests
	scripts/setup-report
	go vet ./...
	go test -timeout 40m ./...

check: ## style
	gofmt -l . | (! grep .)
	go vet ./...
	go run honnef.co/go/tools/cmd/staticcheck@2025.1.1 ./...

bench: bench-plan bench-infer ## figures of docs/performance.md

bench-plan: build setup
	scripts/bench-plan

bench-infer: build setup
	scripts/bench-infer

clean:
	rm -rf bin demo-job
