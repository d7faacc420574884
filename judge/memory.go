package judge

import "sync"

// rememberedAnswers bounds the memory for equal questions: about 100 MB of analyses.
const rememberedAnswers = 100_000

// memory keeps the answers used last, in two generations: when the younger is
// half of what may be kept, it becomes the older, and the older is forgotten.
type memory struct {
	mu         sync.Mutex
	half       int
	young, old map[string]answer
}

func newMemory(most int) *memory {
	return &memory{half: max(1, most/2), young: map[string]answer{}}
}

func (m *memory) get(question string) (answer, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	a, ok := m.young[question]
	if !ok {
		if a, ok = m.old[question]; ok {
			m.keep(question, a)
		}
	}
	return a, ok
}

// isNew says whether a question is new, and keeps it without an answer.
func (m *memory) isNew(question string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	_, young := m.young[question]
	_, old := m.old[question]
	if !young {
		m.keep(question, answer{})
	}
	return !young && !old
}

func (m *memory) put(question string, a answer) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.keep(question, a)
}

func (m *memory) keep(question string, a answer) {
	if len(m.young) >= m.half {
		m.old, m.young = m.young, make(map[string]answer, m.half)
	}
	m.young[question] = a
}
