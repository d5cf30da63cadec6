package process

import (
	"fmt"
	"strings"

	"blockengine/engine/pluginhost/guest"
	"blockengine/sdk/abi"
	"blockengine/sdk/block"
	"blockengine/sdk/manifest"
	calls "blockengine/sdk/process/control"
)

// Limits on what a process may say of itself.
const (
	maxTextLength = 1024 // bytes of an error or a last line
	maxIdentity   = 1024
	maxBlock      = 64 << 10
)

// readManifest checks what a process answered to Hello.
func readManifest(m *calls.Manifest) (manifest.Manifest, error) {
	if m.Version>>16 != calls.Major || m.ABI>>16 != abi.Major {
		return manifest.Manifest{}, fmt.Errorf("speaks version %s of the plugin interface and %s of the calls, and this engine speaks %d.%d and %d.%d: build it with the SDK of this engine's release",
			versionText(m.ABI), versionText(m.Version), abi.Major, abi.Minor, calls.Major, calls.Minor)
	}
	if m.Kind != calls.Protocol && m.Kind != calls.Store {
		return manifest.Manifest{}, fmt.Errorf("its manifest says kind %.40q: \"protocol\" or \"store\"", m.Kind)
	}
	said := guest.Said{Name: m.Name, Version: m.Release, Payload: m.Payload}
	for _, o := range m.Options {
		said.Options = append(said.Options, guest.SaidOption(o))
	}
	return said.Manifest(m.ABI)
}

// shown makes a stranger's text fit for a message of the engine's.
func shown(s string, limit int) string {
	if len(s) > limit {
		s = s[:limit] + "…"
	}
	return strings.Map(func(r rune) rune {
		if r < 0x20 || r >= 0x7f && r < 0xa0 {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(s, "?"))
}

func versionText(v uint32) string { return fmt.Sprintf("%d.%d", v>>16, v&0xffff) }

// checkInfo refuses descriptions of disks that links cannot be made for. Whether
// the rest makes sense is looked at by whoever uses the disk.
func checkInfo(i *block.Info) error {
	switch {
	case i.BlockSize == 0 || i.BlockSize > maxBlock || i.BlockSize&(i.BlockSize-1) != 0:
		return fmt.Errorf("it describes a disk with blocks of %d bytes: a power of two up to %d", i.BlockSize, maxBlock)
	case i.MaxTransfer%i.BlockSize != 0:
		return fmt.Errorf("it describes a disk that takes %d bytes at a time and has blocks of %d: a multiple", i.MaxTransfer, i.BlockSize)
	case len(i.Identity) > maxIdentity:
		return fmt.Errorf("it describes a disk with an identity of %d bytes: at most %d", len(i.Identity), maxIdentity)
	}
	return nil
}
