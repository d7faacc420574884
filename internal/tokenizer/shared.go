package tokenizer

import (
	"tokenfork/internal/failure"
	"tokenfork/internal/model"
)

// Shared is the tokenizer of two models, which must be the same; of the second model's if
// the files differ. A file that is the same is read once.
func Shared(models [2]*model.Model) (*Tokenizer, error) {
	tok, err := Load(models[1].TokenizerPath)
	if err != nil || models[0].Fingerprint().Tokenizer == models[1].Fingerprint().Tokenizer {
		return tok, err
	}
	other, err := Load(models[0].TokenizerPath)
	if err != nil {
		return nil, err
	}
	if err := Equal(other, tok); err != nil {
		return nil, failure.New(failure.Refused, "compare models that share a tokenizer", "the models' tokenizers differ: %w", err)
	}
	return tok, nil
}
