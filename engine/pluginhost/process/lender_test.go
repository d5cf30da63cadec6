package process

import (
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"

	"blockengine/engine/sys"
)

// shower notes what a lender has a process shown and hidden.
type shower struct {
	*lender
	said  strings.Builder
	enter chan struct{} // sent to when show begins, if it is not nil
	leave chan error    // what show gives then

	mu  sync.Mutex
	did []string
}

func newShower() *shower {
	s := &shower{}
	n := uint64(0)
	s.lender = newLender(slog.New(slog.NewTextHandler(&lockedWriter{w: &s.said}, nil)), func() uint64 { n++; return n })
	s.show = func(number uint64, m *sys.Mapping) (err error) {
		if s.enter != nil {
			s.enter <- struct{}{}
			err = <-s.leave
		}
		s.note(fmt.Sprintf("show %d: %s", number, m.Name()))
		return err
	}
	s.hide = func(number uint64) error { s.note(fmt.Sprintf("hide %d", number)); return nil }
	return s
}

func (s *shower) note(what string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.did = append(s.did, what)
}

// is waits until nothing is left to do and compares what was done.
func (s *shower) is(t *testing.T, want ...string) {
	t.Helper()
	eventually(t, "the end of the work", func() bool {
		s.lender.mu.Lock()
		defer s.lender.mu.Unlock()
		return !s.atWork
	})
	s.mu.Lock()
	defer s.mu.Unlock()
	if fmt.Sprint(s.did) != fmt.Sprint(want) {
		t.Errorf("done: %q, wanted %q", s.did, want)
	}
}

// What is met is shown once, and hidden when it goes; what goes before its turn is
// never shown.
func TestLender(t *testing.T) {
	s := newShower()
	one, a := guestMemory(t, "vm1", 4096)
	two, b := guestMemory(t, "vm2", 4096)
	for range 3 {
		s.find(a[:100])
	}
	s.find(b)
	s.is(t, "show 1: memory of vm1", "show 2: memory of vm2")
	if n, at, ok := s.find(b[5:]); n != 2 || at != 5 || !ok {
		t.Errorf("number %d at %d, %v", n, at, ok)
	}
	if _, _, ok := s.find(make([]byte, 10)); ok {
		t.Error("memory of nobody's is found")
	}
	one.Unregister()
	s.is(t, "show 1: memory of vm1", "show 2: memory of vm2", "hide 1")
	if _, _, ok := s.find(a); ok {
		t.Error("found after it has gone")
	}
	two.Unregister()
	s.is(t, "show 1: memory of vm1", "show 2: memory of vm2", "hide 1", "hide 2")
	if n := len(*s.known.Load()); n != 0 {
		t.Errorf("%d are known still", n)
	}
}

// Memory that goes while it is being shown is hidden after that, and was never lent.
func TestGoneWhileShown(t *testing.T) {
	s := newShower()
	s.enter, s.leave = make(chan struct{}), make(chan error)
	one, a := guestMemory(t, "vm1", 4096)
	two, b := guestMemory(t, "vm2", 4096)
	s.find(a)
	<-s.enter
	s.find(b)
	one.Unregister()
	two.Unregister()
	s.leave <- nil
	s.is(t, "show 1: memory of vm1", "hide 1")
}

// A process that cannot map memory is not asked again, and has no part in its end.
func TestRefusedMemory(t *testing.T) {
	s := newShower()
	s.enter, s.leave = make(chan struct{}), make(chan error)
	m, a := guestMemory(t, "vm1", 4096)
	s.find(a)
	<-s.enter
	s.leave <- &refusal{errors.New("too large for me")}
	for range 3 {
		if _, _, ok := s.find(a); ok {
			t.Error("it is lent")
		}
	}
	m.Unregister()
	s.is(t, "show 1: memory of vm1")
	if n := strings.Count(s.said.String(), "too large for me"); n != 1 {
		t.Errorf("it is said %d times: %s", n, s.said.String())
	}
}

// When the process has ended nothing is shown any more, and no mapping remembers it.
func TestLenderOfTheDead(t *testing.T) {
	s := newShower()
	m, a := guestMemory(t, "vm1", 4096)
	_, b := guestMemory(t, "vm2", 4096)
	s.find(a)
	s.is(t, "show 1: memory of vm1")
	s.end()
	if _, _, ok := s.find(a); ok {
		t.Error("found by the dead")
	}
	s.find(b)
	m.Unregister()
	s.is(t, "show 1: memory of vm1")
}

// Reactors meet memory while it comes and goes, and the process ends.
func TestLenderAmongAll(t *testing.T) {
	s := newShower()
	stop := make(chan struct{})
	var wg sync.WaitGroup
	maps := make(chan []byte, 16)
	for range 3 {
		wg.Go(func() {
			for {
				select {
				case b := <-maps:
					s.find(b)
				case <-stop:
					return
				}
			}
		})
	}
	for i := range 300 {
		m, b := guestMemory(t, "vm", 4096)
		for range 4 {
			maps <- b
		}
		m.Unregister()
		if i == 250 {
			s.end()
		}
	}
	close(stop)
	wg.Wait()
	shown, hidden := 0, 0
	eventually(t, "the end of the work", func() bool { s.lender.mu.Lock(); defer s.lender.mu.Unlock(); return !s.atWork })
	for _, what := range s.did {
		if strings.HasPrefix(what, "show") {
			shown++
		} else {
			hidden++
		}
	}
	// What was shown when the process ended was not hidden from it.
	if shown < hidden || shown > hidden+1 {
		t.Errorf("%d shown, %d hidden", shown, hidden)
	}
}
