package endpoint

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/sashabaranov/go-openai"

	"tokenfork/internal/failure"
	"tokenfork/internal/terminal"
)

// BatchItem is a question of a batch, known by its ID in the answers.
type BatchItem struct {
	ID      string
	Request Request
}

// Bounds of a batch's input file, as OpenAI states them (50,000 requests, 200 MB).
const (
	MaxBatchItems = 50_000
	MaxBatchBytes = 190 << 20
)

// Line is the item as a line of the batch's input file, with the same body that
// Ask would send.
func (c *Client) Line(i BatchItem) ([]byte, error) {
	body, err := json.Marshal(c.dialect.request(c.cfg.Model, i.Request))
	if err != nil {
		return nil, fmt.Errorf("encode question %s: %w", i.ID, err)
	}
	if body, err = insert(body, c.members(c.dialect, i.Request)); err != nil {
		return nil, err
	}
	return fmt.Appendf(nil, `{"custom_id":%q,"method":"POST","url":"/v1/chat/completions","body":%s}`+"\n", i.ID, body), nil
}

// Submit sends a file of lines as a batch and gives its id. All that it may
// cost is set against the budget now.
func (c *Client) Submit(ctx context.Context, file []byte, items []BatchItem) (id string, err error) {
	var need cost
	for _, i := range items {
		need = need.plus(c.cfg.Budget.bound(i.Request))
	}
	if !c.ledger.try(need) {
		return "", failure.New(failure.Stopped, "give a higher --budget, or judge without --batch", "%w: a batch of %d questions may cost %d tokens in, %d out, beside %s",
			ErrBudget, len(items), need.prompt, need.completion, c.ledger)
	}
	if id, err = c.create(ctx, file); err != nil {
		c.ledger.settle(need, cost{})
		return "", fmt.Errorf("submit a batch to the judge: %w", err)
	}
	c.holds.Store(id, need)
	return id, nil
}

func (c *Client) create(ctx context.Context, file []byte) (id string, err error) {
	var f openai.File
	err = c.persist(ctx, func() (err error) {
		f, err = c.api.CreateFileBytes(ctx, openai.FileBytesRequest{Name: "tokenfork.jsonl", Bytes: file, Purpose: openai.PurposeBatch})
		return err
	})
	if err != nil {
		return "", err
	}
	for tries := 1; ; tries++ { // not persist: a batch whose reply was lost must not be made, and paid, twice
		b, err := c.api.CreateBatch(ctx, openai.CreateBatchRequest{InputFileID: f.ID, Endpoint: openai.BatchEndpointChatCompletions, CompletionWindow: "24h"})
		fault := c.explain(ctx, err)
		switch {
		case fault == nil:
			return b.ID, nil
		case cmp.Or(fault.fatal, fault.denied) != nil:
			return "", cmp.Or(fault.fatal, fault.denied)
		case !fault.throttled || tries == triesPerQuestion:
			return "", failure.New(failure.Stopped, "see at the provider whether the batch was made, and cancel it if so", "%w", fault.error(c))
		}
		if err := sleep(ctx, max(backoff(tries), retryAfter(b.Header()))); err != nil {
			return "", err
		}
	}
}

// Wait asks after the batch until it has ended; how says how. While it works
// it reports the items done.
func (c *Client) Wait(ctx context.Context, id string, every time.Duration, report func(done, total int)) (how string, err error) {
	for {
		var b openai.BatchResponse
		err := c.persist(ctx, func() (err error) {
			b, err = c.api.RetrieveBatch(ctx, id)
			return err
		})
		if err != nil {
			return "", fmt.Errorf("ask after batch %s: %w", id, err)
		}
		report(b.RequestCounts.Completed, b.RequestCounts.Total)
		switch b.Status {
		case "completed", "expired", "cancelled":
			return b.Status, nil
		case "failed":
			return "", failure.New(failure.Refused, "judge without --batch, or look at the batch at the provider", "batch %s failed: %s", id, batchErrors(b))
		}
		if err := sleep(ctx, every); err != nil {
			return "", err
		}
	}
}

func batchErrors(b openai.BatchResponse) string {
	if b.Errors == nil {
		return "no reason given"
	}
	var all []string
	for _, e := range b.Errors.Data {
		all = append(all, e.Message)
	}
	return terminal.Clip(strings.Join(all, "; "), 500)
}

// Collect gives each answer of an ended batch. Items without one, refused or
// expired, are passed over.
func (c *Client) Collect(ctx context.Context, id string, r Request, each func(id string, reply *Reply, err error)) error {
	b, err := c.api.RetrieveBatch(ctx, id)
	if err != nil {
		return fmt.Errorf("ask after batch %s: %w", id, err)
	}
	if hold, ok := c.holds.LoadAndDelete(id); ok {
		c.ledger.settle(hold.(cost), cost{}) // each answer counts below
	}
	if b.OutputFileID == nil || *b.OutputFileID == "" {
		return nil
	}
	file, err := c.api.GetFileContent(ctx, *b.OutputFileID)
	if err != nil {
		return fmt.Errorf("fetch the answers of batch %s: %w", id, err)
	}
	defer file.Close()
	lines := bufio.NewReaderSize(file, 1<<20)
	for {
		line, err := lines.ReadBytes('\n')
		if len(bytes.TrimSpace(line)) > 0 {
			if err := c.batchLine(line, r, each); err != nil {
				return fmt.Errorf("read the answers of batch %s: %w", id, err)
			}
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return fmt.Errorf("fetch the answers of batch %s: %w", id, err)
		}
	}
}

func (c *Client) batchLine(line []byte, r Request, each func(string, *Reply, error)) error {
	var l struct {
		ID       string `json:"custom_id"`
		Response *struct {
			Status int             `json:"status_code"`
			Body   json.RawMessage `json:"body"`
		} `json:"response"`
	}
	if err := json.Unmarshal(finite(line), &l); err != nil {
		return err
	}
	if l.Response == nil || l.Response.Status != http.StatusOK {
		return nil
	}
	got, f := c.parseCompletion(l.Response.Body)
	if f != nil {
		return nil
	}
	c.ledger.spend(c.cfg.Budget.cost(max(got.used.prompt, 0), max(got.used.completion, 0)))
	c.count.add(got.used)
	reply, f := c.reply(got, r)
	if f != nil {
		each(l.ID, nil, f.error(c))
	} else {
		each(l.ID, reply, nil)
	}
	return nil
}

// persist repeats a call while the server has passing trouble.
func (c *Client) persist(ctx context.Context, call func() error) error {
	for tries := 1; ; tries++ {
		f := c.explain(ctx, call())
		switch {
		case f == nil:
			c.succeeded()
			return nil
		case cmp.Or(f.fatal, f.denied) != nil:
			return cmp.Or(f.fatal, f.denied)
		case !f.retry:
			return failure.New(failure.Refused, "judge without --batch", "%w", f.error(c))
		case time.Since(time.Unix(0, c.success.Load())) > c.cfg.Patience:
			return failure.New(failure.Stopped, "start it again later", "%w", f.error(c))
		}
		if err := sleep(ctx, backoff(tries)); err != nil {
			return err
		}
	}
}
