// Package manifest describes a plugin to the engine and to its operator: what
// it is called, which version of the interface it speaks, and which options a
// volume on it takes.
package manifest

// OptionType is the type of an option's value in the configuration.
type OptionType uint8

// The types of options.
const (
	String OptionType = iota
	Size              // bytes, written with KiB, MiB, GiB or TiB
	Bool
	Int  // not negative
	Path // a string; relative ones are resolved against the configuration's folder
)

var typeNames = [...]string{"string", "size", "bool", "int", "path"}

// String gives the type's name as it stands in a manifest.
func (t OptionType) String() string {
	if int(t) < len(typeNames) {
		return typeNames[t]
	}
	return "unknown"
}

// TypeNamed is the inverse of OptionType.String.
func TypeNamed(name string) (OptionType, bool) {
	for i, n := range typeNames {
		if n == name {
			return OptionType(i), true
		}
	}
	return 0, false
}

// Option describes one option of a volume.
type Option struct {
	Name     string
	Type     OptionType
	Required bool
	Secret   bool // never shown in status, logs or recordings
	Help     string
}

// Payload says what a protocol plugin wants to do with payload.
type Payload string

const (
	// Direct: the engine moves payload between server and request; the
	// plugin never sees it.
	Direct Payload = "direct"
	// Copy: the plugin transforms payload and gets a copy of it.
	Copy Payload = "copy"
)

// Manifest describes a plugin.
type Manifest struct {
	Name    string // letters, digits, '.', '_', '-'; 64 at most
	Version string
	ABI     uint32 // abi.Version that it was built for
	Payload Payload
	Options []Option
}

// AppendJSON appends the manifest in the form that be_manifest returns. It is
// written by hand because encoding/json would bring package os, and with it
// file imports that the engine refuses, into every plugin.
func (m *Manifest) AppendJSON(b []byte) []byte {
	b = append(b, `{"kind":"protocol","name":`...)
	b = appendString(b, m.Name)
	b = append(b, `,"version":`...)
	b = appendString(b, m.Version)
	b = append(b, `,"abi":"`...)
	b = appendUint(b, m.ABI>>16)
	b = append(b, '.')
	b = appendUint(b, m.ABI&0xffff)
	b = append(b, `","payload":`...)
	payload := m.Payload
	if payload == "" {
		payload = Direct
	}
	b = appendString(b, string(payload))
	b = append(b, `,"options":[`...)
	for i, o := range m.Options {
		if i > 0 {
			b = append(b, ',')
		}
		b = o.appendJSON(b)
	}
	return append(b, "]}"...)
}

func (o *Option) appendJSON(b []byte) []byte {
	b = append(b, `{"name":`...)
	b = appendString(b, o.Name)
	b = append(b, `,"type":`...)
	b = appendString(b, o.Type.String())
	if o.Required {
		b = append(b, `,"required":true`...)
	}
	if o.Secret {
		b = append(b, `,"secret":true`...)
	}
	b = append(b, `,"help":`...)
	b = appendString(b, o.Help)
	return append(b, '}')
}

// appendString appends s as a JSON string.
func appendString(b []byte, s string) []byte {
	const hex = "0123456789abcdef"
	b = append(b, '"')
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == '"' || c == '\\':
			b = append(b, '\\', c)
		case c < 0x20:
			b = append(b, '\\', 'u', '0', '0', hex[c>>4], hex[c&15])
		default:
			b = append(b, c)
		}
	}
	return append(b, '"')
}

func appendUint(b []byte, v uint32) []byte {
	if v >= 10 {
		b = appendUint(b, v/10)
	}
	return append(b, byte('0'+v%10))
}
