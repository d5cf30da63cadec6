package nbdtest

import (
	"os"
	"strings"
	"testing"
	"time"
)

func TestLeaksAreFound(t *testing.T) {
	routines, fds := goroutines(), descriptors()
	stop := make(chan struct{})
	go func() { <-stop }()
	err := waitNoLeaks(routines, fds, 50*time.Millisecond)
	if err == nil || !strings.Contains(err.Error(), "leaked 1 goroutines") {
		t.Errorf("a waiting goroutine: %v", err)
	}
	close(stop)
	if err := waitNoLeaks(routines, fds, 5*time.Second); err != nil {
		t.Errorf("it is gone: %v", err)
	}
	f, err := os.Open("/dev/null")
	mustDo(t, err)
	if added(fds, descriptors()) == nil {
		t.Error("an open file was not found")
	}
	f.Close()
}
