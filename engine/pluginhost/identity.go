package pluginhost

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// Identity is how the engine is known to storage servers. Protocols make of it
// what they have: an initiator name, a host NQN, an ISID. It must outlive the
// process, because a server may let a session that comes again fence the one
// before (DESIGN chapter 2, rule 1).
type Identity struct {
	dir  string // the engine's state directory
	host [16]byte
}

// machineID is the host's own identity (machine-id(5)).
const machineID = "/etc/machine-id"

// LoadIdentity finds the host's identity: a hash of /etc/machine-id, which is
// not to be shown to others as it is, or else one that is kept in stateDir.
func LoadIdentity(stateDir string) (*Identity, error) {
	id := &Identity{dir: stateDir}
	if b, err := os.ReadFile(machineID); err == nil && len(strings.TrimSpace(string(b))) >= 32 {
		sum := sha256.Sum256([]byte("blockengine host\x00" + strings.TrimSpace(string(b))))
		id.host = [16]byte(sum[:16])
		return id, nil
	}
	var err error
	id.host, err = kept(filepath.Join(stateDir, "host-id"))
	return id, err
}

// Host is the same for every engine on this host.
func (i *Identity) Host() [16]byte { return i.host }

// Session is the same each time the volume is opened by an engine with the same
// state directory. The name is a volume's, which is fit for a file name.
func (i *Identity) Session(volume string) ([16]byte, error) {
	return kept(filepath.Join(i.dir, "sessions", volume))
}

// kept reads an identifier from a file, or makes one and keeps it there.
func kept(path string) ([16]byte, error) {
	var id [16]byte
	b, err := os.ReadFile(path)
	if err == nil {
		if n, err := hex.Decode(id[:], []byte(strings.TrimSpace(string(b[:min(len(b), 33)])))); err != nil || n != len(id) {
			return id, fmt.Errorf("%s holds no identifier (32 hex digits): remove it if no other engine uses this state directory", path)
		}
		return id, nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return id, fmt.Errorf("read identifier: %w", err)
	}
	_, _ = rand.Read(id[:]) // never fails
	if err := keep(path, []byte(hex.EncodeToString(id[:])+"\n")); err != nil {
		return id, fmt.Errorf("keep identifier: %w", err)
	}
	return id, nil
}
