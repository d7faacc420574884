# tokenfork: `make demo` and `make test` set up all they need.
VENV   := $(or $(TOKENFORK_VENV),$(CURDIR)/.venv)
MODELS := $(or $(TOKENFORK_MODELS),$(CURDIR)/.cache/models)
export TOKENFORK_VENV = $(VENV)
export TOKENFORK_MODELS = $(MODELS)
export TOKENFORK_JUDGES ?= $(abspath $(MODELS)/../judges)

.PHONY: all build install setup demo test test-go test-terraform gold injections judge-servers fuzz load kill-sweep damage-sweep check check-dataset release check-reproducible bench bench-plan bench-merge bench-infer clean

all: build

build: ## bin/tokenfork
	@echo "build: Go modules (0.4 GB, once), then bin/tokenfork (two minutes the first time)"
	@go mod download
	@nice go build -o bin/tokenfork ./cmd/tokenfork # make demo waits for Python, which has one thread

install: ## into $GOBIN
	go install ./cmd/tokenfork

setup: .cache/demo.csv ## vLLM, the model pair, a table of their predictions

$(VENV)/.ready: scripts/setup-vllm scripts/versions $(wildcard scripts/locks/*)
	@scripts/setup-vllm
	@touch $@

$(MODELS)/reference/config.json: $(VENV)/.ready scripts/make-pair
	@echo "models: two of 135 million parameters (0.5 GB) into $(MODELS)"
	@$(VENV)/bin/python scripts/make-pair $(MODELS)
	@touch $@

.cache/demo.csv: $(MODELS)/reference/config.json scripts/make-table $(wildcard testdata/texts/*)
	OMP_WAIT_POLICY=PASSIVE $(VENV)/bin/python scripts/make-table $@ --pair $(MODELS)

demo: ## the main job on an embedded default; what it wants is made side by side
	@$(MAKE) --no-print-directory -j 2 build $(MODELS)/reference/config.json
	@scripts/demo

test: build setup ## all tests, with real vLLM, Slurm, S3 and readers
	scripts/setup-slurm
	scripts/setup-podman
	scripts/setup-report
	scripts/setup-judges llamacpp
	go vet ./...
	$(VENV)/bin/ruff check --quiet --config scripts/ruff.toml cmd internal judge shard $$(grep -lsE '^#!.*python' scripts/*)
	@$(MAKE) --no-print-directory -j 2 test-go test-terraform

# Two packages at once: several start vLLM servers of 5 GB. More tests than cores:
# most of those that may run side by side wait for servers and for Slurm.
test-go:
	go test -p 2 -parallel 6 -timeout 60m $$(go list ./... | grep -v /terraform)

test-terraform: # on what the other tests, which take longer, leave of the cores
	nice terraform/check

gold: build setup ## how far the demo's judge, or JUDGE=URL, agrees with testdata/gold.csv, by prompt: PROMPTS="seed file=mine.tmpl"
	scripts/measure-judge gold $(PROMPTS)

judge-servers: build setup ## ask llama.cpp's server, also through the LiteLLM proxy, which is 0.6 GB to install
	scripts/setup-judges llamacpp litellm
	go test ./judge -run TestServersOfOtherKinds -count 1 -v -judge.litellm

injections: setup ## how often it follows orders that are planted in the texts
	scripts/measure-judge injections

test-tokenizers: build setup ## every id of every vocabulary; make test compares a part of most large ones
	go test ./internal/tokenizer -timeout 60m -tokenizers.all

fuzz: ## every reader's fuzz target for a minute
	scripts/fuzz

LOAD_TEXTS ?= 21000
load: ## what processes hold over a table of 10^6 mismatches, and over a sixteenth of it
	go test ./cmd/tokenfork -run TestLoad -v -timeout 6h -load.texts $(LOAD_TEXTS)

KILLS ?= 200
kill-sweep: ## kills at random moments of whole runs, in a folder and in S3
	go test ./cmd/tokenfork -run TestRandomKills -v -timeout 6h -kill.n $(KILLS)

DAMAGES ?= 200
damage-sweep: ## flipped bits, cuts and holes in every kind of file of a job
	go test ./cmd/tokenfork -run TestDamageSweep -v -timeout 6h -damage.n $(DAMAGES)

check-dataset: build ## an export of JOB, by default the demo's,, read by datasets and mlcroissant
	rm -rf .cache/dataset && bin/tokenfork export --job $(or $(JOB),demo-job) --to .cache/dataset
	scripts/check-dataset .cache/dataset

check: ## style
	gofmt -l . | (! grep .)
	go vet ./...
	scripts/check-imports
	GOARCH=arm64 go vet ./...
	scripts/check-links
	scripts/check-release
	go run honnef.co/go/tools/cmd/staticcheck@v0.8.2 ./...

bench: bench-plan bench-merge bench-infer ## figures of docs/performance.md

bench-plan: build setup
	$(VENV)/bin/python scripts/bench-plan

bench-merge: build setup ## against a polars script that writes the same rows
	$(VENV)/bin/python scripts/bench-merge --page docs/performance.md

bench-infer: build setup ## against R2R's two ways, on the demo's table and real vLLM
	scripts/bench-infer

release: ## archives, SBOMs and checksums of HEAD, in dist/
	scripts/release

check-reproducible: ## a release built twice is the same bytes, with a valid SBOM
	scripts/check-reproducible

clean:
	rm -rf bin dist demo-job
