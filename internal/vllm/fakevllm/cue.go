package fakevllm

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// cued is the fault that the request meets; one without a kind is none.
func (s *Server) cued(prompt []int32, before int64) Fault {
	key := prefixState(prompt)
	for i, f := range s.config.Faults {
		n := len(prompt) - len(f.Suffix)
		switch {
		case f.Server != "" && f.Server != s.config.Name && f.Server != s.config.Model.name:
		case n < 0 || !slices.Equal(prompt[n:], f.Suffix):
		case f.Every > 0 && mixed(uint64(key)+uint64(i))%uint64(f.Every) != 0:
		case before < int64(f.After):
		case f.Times > 0 && !s.count(fmt.Sprintf("%d-%x", i, uint64(key)), f.Times):
		case f.Most > 0 && !s.count(fmt.Sprint(i), f.Most):
		default:
			return f
		}
	}
	return Fault{}
}

// cuedChat is the fault that a question to the chat API meets: those of the server
// called Chat alone.
func (s *Server) cuedChat(before int64) Fault {
	for i, f := range s.config.Faults {
		if f.Server == Chat && before >= int64(f.After) && (f.Most == 0 || s.count(fmt.Sprint(i), f.Most)) {
			return f
		}
	}
	return Fault{}
}

// Chat is what Fault.Server says for questions to the chat API of any server.
const Chat = "chat"

// count says whether what is named has happened less than most times, and counts it.
func (s *Server) count(name string, most int) bool {
	if s.config.State == "" {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.shown[name]++
		return s.shown[name] <= most
	}
	for n := range most { // made at once by one alone, also of several processes
		f, err := os.OpenFile(filepath.Join(s.config.State, fmt.Sprintf("%s-%d", name, n)), os.O_CREATE|os.O_EXCL, 0o600)
		if err == nil {
			_ = f.Close() // empty
			return true
		}
		if !os.IsExist(err) {
			panic(err)
		}
	}
	return false
}

// die ends the process, or makes a served one seem to have ended.
func (s *Server) die(away time.Duration) {
	if s.process {
		os.Exit(deathCode)
	}
	s.Kill(away)
}

const deathCode = 9
