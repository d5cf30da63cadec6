package sys

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestListenUnix(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	first, err := ListenUnix(path, 4, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ListenUnix(path, 4, 0o600); err == nil || !strings.Contains(err.Error(), "in use") {
		t.Errorf("a second listener: %v", err)
	}
	_ = Close(first) // leaves the file behind
	second, err := ListenUnix(path, 4, 0o660)
	if err != nil {
		t.Fatal(err)
	}
	defer Close(second)
	if st, err := os.Stat(path); err != nil || st.Mode().Perm()&0o600 != 0o600 {
		t.Error(st.Mode(), err)
	}
	file := filepath.Join(t.TempDir(), "f")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := ListenUnix(file, 4, 0o600); err == nil || !strings.Contains(err.Error(), "no socket") {
		t.Errorf("over a file: %v", err)
	}
	if _, err := os.Stat(file); err != nil {
		t.Error("the file is gone")
	}
}
