package secret

import (
	"slices"
	"testing"
)

func TestIn(t *testing.T) {
	for _, c := range []struct{ text, want string }{
		{"module load cuda/12.4\nsource ~/venv/bin/activate", ""},
		{"export OPENAI_API_KEY=abcdefgh12345678", "OPENAI_API_KEY"},
		{"TOKENFORK_JUDGE_KEY='abcdefgh 12345678' x", "TOKENFORK_JUDGE_KEY"},
		{`export TOKENFORK_JUDGE_KEY="$(cat ~/.judge-key)"`, ""},
		{"export TOKENFORK_JUDGE_KEY=$(<~/.judge-key)", ""},
		{"export TOKENFORK_JUDGE_KEY=$SITE_KEY", ""},
		{"export AWS_SHARED_CREDENTIALS_FILE=~/.aws/credentials", ""},
		{"--export=ALL,AWS_SECRET_ACCESS_KEY=abcd/efgh", "AWS_SECRET_ACCESS_KEY"},
		{"VLLM_MAX_TOKENS=8192 --max-num-batched-tokens 8192 --tokenizer-mode auto", ""},
		{"vllm --api-key letmein", "--api-key"},
		{"vllm --hf-token=letmein", "--hf-token"},
		{"curl -H 'Authorization: Bearer abcdefgh12345678'", "a key"},
		{"x sk-proj-0123456789abcdef0123", "a key"},
		{"export http_proxy=http://me:pass@proxy:3128", "http_proxy"},
		{"git clone https://me:pass@host/x", "a URL's password"},
	} {
		if got := In(c.text); got != c.want {
			t.Errorf("%q has %q, want %q", c.text, got, c.want)
		}
	}
}

func TestStrip(t *testing.T) {
	keep := []string{"PATH=/bin", "HOME=/h", "LD_LIBRARY_PATH=/l", "CUDA_HOME=/c", "NCCL_IB_HCA=mlx5", "TOKENIZERS_PARALLELISM=false",
		"VLLM_MAX_TOKENS_PER_EXPERT_FP4_MOE=163840", "SLURM_JOB_ID=7", "BASH_FUNC_module%%=() { x; }", "http_proxy=http://proxy:3128", "HF_HOME=/hf"}
	drop := []string{"TOKENFORK_JUDGE_KEY=judgejudge", "OPENAI_API_KEY=x12345", "OPENAI_BASE_URL=https://x", "AWS_PROFILE=me", "AWS_SESSION_TOKEN=abc",
		"HF_TOKEN=hf_abc", "WANDB_API_KEY=w", "MY_PASSWORD=secret", "APPTAINERENV_OPENAI_API_KEY=x", "https_proxy=http://me:pass@proxy", "PLAIN=sk-0123456789abcdef"}
	if got := Strip(slices.Concat(keep, drop)); !slices.Equal(got, keep) {
		t.Errorf("kept %q", got)
	}
}
