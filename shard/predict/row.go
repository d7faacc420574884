package predict

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"tokenfork/internal/vllm"
)

// contents are what a row's text may be in, as messages name them.
const contents = `"text", "prompt", "response", "messages" or "conversations"`

// columnNames are those with meaning. Of a row that has several, a chat counts before
// a prompt and its response, and those before a text.
var columnNames = []string{"id", "messages", "conversations", "prompt", "response", "text"}

// parseObject makes a text of a JSON object.
func parseObject(object []byte) (Text, error) {
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(object, &fields); err != nil {
		return Text{}, err
	}
	if fields == nil {
		return Text{}, errors.New("null is no text")
	}
	for name, value := range fields {
		if string(value) == "null" && name != "id" {
			delete(fields, name)
		}
	}
	var t Text
	if id, ok := fields["id"]; ok {
		var err error
		if t.ID, err = parseID(id); err != nil {
			return Text{}, err
		}
	}
	for _, chat := range []string{"messages", "conversations"} {
		if value, ok := fields[chat]; ok {
			if err := t.setChat(value); err != nil {
				return Text{}, fmt.Errorf("%s: %w", chat, err)
			}
			return t, nil
		}
	}
	prompt, hasPrompt := fields["prompt"]
	response, ok := fields["response"]
	if !hasPrompt && !ok {
		response, ok = fields["text"]
	}
	if ok {
		t.Response = new(string)
		if err := parseString(response, t.Response); err != nil {
			return Text{}, fmt.Errorf("response or text: %w", err)
		}
	}
	if hasPrompt {
		parse := t.setChat
		if prompt[0] != '[' {
			parse = func(raw json.RawMessage) error { return parseString(raw, &t.Prompt) }
		}
		if err := parse(prompt); err != nil {
			return Text{}, fmt.Errorf("prompt: %w", err)
		}
	}
	return t, t.check()
}

// promptChat is the cell of a column "prompt" that holds chats, not strings.
const promptChat = "prompt as a chat"

// parseCells makes a text of a row of a table by its columns' names; an empty cell is
// as good as none. Chats are JSON.
func parseCells(cells map[string]string) (Text, error) {
	t := Text{ID: cells["id"], Prompt: cells["prompt"]}
	if _, ok := cells["id"]; ok && t.ID == "" {
		return Text{}, errors.New("the id is empty")
	}
	for _, chat := range []string{"messages", "conversations"} {
		if value := cells[chat]; value != "" {
			if err := t.setChat(json.RawMessage(value)); err != nil {
				return Text{}, fmt.Errorf("%s: %w", chat, err)
			}
			return t, nil
		}
	}
	response := cells["response"]
	if response == "" && t.Prompt == "" && cells[promptChat] == "" {
		response = cells["text"]
	}
	if response != "" {
		t.Response = &response
	}
	if chat := cells[promptChat]; chat != "" {
		if err := t.setChat(json.RawMessage(chat)); err != nil {
			return Text{}, fmt.Errorf("prompt: %w", err)
		}
	}
	return t, t.check()
}

func (t *Text) check() error {
	if t.Prompt == "" && t.Response == nil {
		return errors.New("there is no " + contents)
	}
	return nil
}

// parseString refuses what encoding/json would replace without a word.
func parseString(raw json.RawMessage, into *string) error {
	if err := json.Unmarshal(raw, into); err != nil {
		return fmt.Errorf("%.40s is not a string", raw)
	}
	const replacement = "\uFFFD"
	if strings.Count(*into, replacement) > bytes.Count(raw, []byte(replacement))+bytes.Count(bytes.ToLower(raw), []byte(`\ufffd`)) {
		return errors.New("an escape is half of a surrogate pair")
	}
	return nil
}

// parseID takes a string, or a whole number, also as 7.0.
func parseID(raw json.RawMessage) (string, error) {
	var id string
	if raw[0] == '"' {
		if err := parseString(raw, &id); err != nil {
			return "", fmt.Errorf("id: %w", err)
		}
	} else if n, err := strconv.ParseInt(string(raw), 10, 64); err == nil {
		id = strconv.FormatInt(n, 10)
	} else if f, err := strconv.ParseFloat(string(raw), 64); err == nil && f == math.Trunc(f) && math.Abs(f) < 1<<53 {
		id = strconv.FormatInt(int64(f), 10)
	}
	if id == "" {
		return "", fmt.Errorf("the id is %s, not a string or a whole number", raw)
	}
	return id, nil
}

// setChat takes a list of messages. If there is no response yet, the last one is, if
// it is the assistant's. The others are the prompt.
func (t *Text) setChat(raw json.RawMessage) error {
	t.Prompt = ""
	var list []map[string]json.RawMessage
	if err := json.Unmarshal(raw, &list); err != nil {
		return errors.New("it is not a list of messages")
	}
	if len(list) == 0 {
		return errors.New("the list is empty")
	}
	for i, fields := range list {
		m, err := parseMessage(fields)
		if err != nil {
			return fmt.Errorf("message %d: %w", i+1, err)
		}
		t.Messages = append(t.Messages, m)
	}
	if last := len(t.Messages) - 1; t.Response == nil && t.Messages[last].Role == "assistant" {
		t.Response, t.Messages = &t.Messages[last].Content, slices.Clip(t.Messages[:last])
	}
	for _, m := range t.Messages {
		t.Prompt += m.Content + "\n\n"
	}
	return nil
}

// parseMessage takes role and content, or from and value.
func parseMessage(fields map[string]json.RawMessage) (m vllm.Message, err error) {
	role, content := fields["role"], fields["content"]
	if role == nil && content == nil {
		role, content = fields["from"], fields["value"]
	}
	if role == nil || content == nil {
		return m, errors.New(`it needs "role" and "content", or "from" and "value"`)
	}
	if err := parseString(role, &m.Role); err != nil {
		return m, fmt.Errorf("role: %w", err)
	}
	if as, ok := map[string]string{"human": "user", "gpt": "assistant"}[m.Role]; ok {
		m.Role = as
	}
	if m.Role == "" {
		return m, errors.New("the role is empty")
	}
	if string(content) == "null" {
		return m, errors.New("content is null, as of a call of a tool: only text can be read")
	}
	if content[0] != '[' {
		err = parseString(content, &m.Content)
		return m, err
	}
	var parts []struct {
		Type string          `json:"type"`
		Text json.RawMessage `json:"text"`
	}
	if err := json.Unmarshal(content, &parts); err != nil {
		return m, errors.New("content is neither a string nor a list of parts")
	}
	for _, part := range parts {
		if part.Type != "text" || part.Text == nil {
			return m, fmt.Errorf("a part is of type %q, only text can be read", part.Type)
		}
		var text string
		if err := parseString(part.Text, &text); err != nil {
			return m, err
		}
		m.Content += text
	}
	return m, nil
}
