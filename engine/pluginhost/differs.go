package pluginhost

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"

	"blockengine/engine/config"
)

// source is what a restart of the engine loads.
type source struct {
	config.Source
	hash    string // of the file when it was last loaded
	version string
}

// loaded notes what a file was found to hold: it may be the one that a restart
// loads, with new contents.
func (s *source) loaded(p *Plugin) {
	if p.Path == s.Path && s.Runtime == p.Runtime && s.SHA256 == "" {
		s.hash, s.version = p.Hash, p.Version
	}
}

// kept notes that a restart loads p.
func (s *source) kept(p *Plugin) {
	s.Source = config.Source{Runtime: p.Runtime, Path: p.Path}
	if p.Path != "" {
		s.SHA256 = p.Hash
	}
	s.hash, s.version = p.Hash, p.Version
}

// differs says how p, which runs, is not what a restart loads; "" if it is.
func (s *source) differs(p *Plugin) string {
	if p.Hash == s.hash {
		return ""
	}
	runs := fmt.Sprintf("runs %s", describe(p))
	if p.Path != "" {
		runs += " from " + p.Path
	}
	if s.SHA256 != "" && p.Path == s.Path {
		return fmt.Sprintf("%s; the configuration pins another hash of that file, sha256 %.12s: a restart refuses it (engine plugin upgrade --save keeps what runs)", runs, s.SHA256)
	}
	named := "the builtin plugin"
	if s.Path != "" {
		named = s.Path
	}
	return fmt.Sprintf("%s; the configuration names %s (%s): a restart loads that (engine plugin upgrade --save keeps what runs)",
		runs, named, identify(s.version, s.hash))
}

// stillThere checks that p's file holds p, so that a restart can load it.
func stillThere(p *Plugin) error {
	if p.Path == "" {
		return nil
	}
	f, err := os.Open(p.Path)
	if err != nil {
		return fmt.Errorf("a restart could not load it: %w", err)
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return fmt.Errorf("a restart could not load it: read %s: %w", p.Path, err)
	}
	if sum := hex.EncodeToString(h.Sum(nil)); sum != p.Hash {
		return fmt.Errorf("%s holds another version now (sha256 %.12s): put the file with sha256 %.12s there", p.Path, sum, p.Hash)
	}
	return nil
}
