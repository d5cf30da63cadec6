package process

import (
	"fmt"
	"strings"
	"unicode/utf8"

	"blockengine/sdk/abi"
	"blockengine/sdk/block"
	"blockengine/sdk/manifest"
	calls "blockengine/sdk/process/control"
)

// Limits on what a process may say of itself.
const (
	maxOptions    = 64
	maxNameLength = 64
	maxTextLength = 1024
	maxIdentity   = 1024
	maxBlock      = 64 << 10
)

// readManifest checks what a process answered to Hello.
func readManifest(m *calls.Manifest) (manifest.Manifest, error) {
	out := manifest.Manifest{Name: m.Name, Version: m.Release, ABI: m.ABI, Payload: manifest.Direct}
	if m.Version>>16 != calls.Major || m.ABI>>16 != abi.Major {
		return out, fmt.Errorf("speaks version %s of the plugin interface and %s of the calls, and this engine speaks %d.%d and %d.%d: build it with the SDK of this engine's release",
			versionText(m.ABI), versionText(m.Version), abi.Major, abi.Minor, calls.Major, calls.Minor)
	}
	if m.Kind != calls.Protocol && m.Kind != calls.Store {
		return out, fmt.Errorf("its manifest says kind %.40q: \"protocol\" or \"store\"", m.Kind)
	}
	if err := checkName("name", m.Name); err != nil {
		return out, err
	}
	if len(m.Release) > maxNameLength || !printable(m.Release) {
		return out, fmt.Errorf("its manifest says version %.80q: at most %d printable characters", m.Release, maxNameLength)
	}
	switch p := manifest.Payload(m.Payload); p {
	case manifest.Direct, manifest.Copy:
		out.Payload = p
	case "":
	default:
		return out, fmt.Errorf("its manifest says payload %.40q: \"direct\" or \"copy\"", m.Payload)
	}
	var err error
	out.Options, err = readOptions(m.Options)
	return out, err
}

func readOptions(list []calls.Option) ([]manifest.Option, error) {
	if len(list) > maxOptions {
		return nil, fmt.Errorf("its manifest lists %d options: at most %d", len(list), maxOptions)
	}
	seen := make(map[string]bool, len(list))
	options := make([]manifest.Option, 0, len(list))
	for _, o := range list {
		if err := checkName("option", o.Name); err != nil {
			return nil, err
		}
		if seen[o.Name] {
			return nil, fmt.Errorf("its manifest lists option %q twice", o.Name)
		}
		seen[o.Name] = true
		t, ok := manifest.TypeNamed(o.Type)
		if !ok {
			return nil, fmt.Errorf("its manifest gives option %q the type %.40q: string, size, bool, int or path", o.Name, o.Type)
		}
		if len(o.Help) > maxTextLength || !printable(o.Help) {
			return nil, fmt.Errorf("its manifest has a help text of option %q that is longer than %d bytes or not printable", o.Name, maxTextLength)
		}
		options = append(options, manifest.Option{Name: o.Name, Type: t, Required: o.Required, Secret: o.Secret, Help: o.Help})
	}
	return options, nil
}

// checkName checks a name: letters, digits, '.', '_', '-'; 64 at most.
func checkName(what, name string) error {
	const allowed = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-"
	if name == "" || len(name) > maxNameLength || strings.Trim(name, allowed) != "" {
		return fmt.Errorf("its manifest says %s %.80q: 1 to %d letters, digits, '.', '_' and '-'", what, name, maxNameLength)
	}
	return nil
}

// printable keeps control characters away from the operator's terminal.
func printable(s string) bool {
	return utf8.ValidString(s) && strings.IndexFunc(s, func(r rune) bool { return r < 0x20 || r >= 0x7f && r < 0xa0 }) < 0
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
