package pluginhost

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"blockengine/engine/config"
	"blockengine/sdk/abi"
	"blockengine/sdk/manifest"
	"blockengine/sdk/store"
)

// maxEncoded is how many bytes a volume's options may have when they are
// encoded: they travel in one event record, beside other things.
const maxEncoded = abi.InSize / 4

// Values are a volume's options, checked against a plugin's manifest. They may
// hold secrets: Shown is for showing.
type Values struct {
	values []value
}

type value struct {
	option manifest.Option
	text   string // as a protocol plugin gets it
	size   uint64 // of Size and Int
	on     bool   // of Bool
}

// Check reads a volume's options as the plugin's manifest describes them. All
// that is wrong is reported at once: options that nobody knows, values of the
// wrong type, required options that are missing, paths that the plugin needs or
// cannot use.
func (p *Plugin) Check(cfg *config.Config, v *config.Volume) (Values, config.Problems) {
	problems := p.checkPaths(cfg, v)
	for _, o := range v.Options {
		if !slices.ContainsFunc(p.Options, func(m manifest.Option) bool { return m.Name == o.Key }) {
			problems = append(problems, cfg.OptionProblem(v, o, p.unknownOption(o.Key)))
		}
	}
	var vals Values
	for _, m := range p.Options {
		o, given := v.Option(m.Name)
		if !given {
			if m.Required {
				problems = append(problems, p.missing(cfg, v, m))
			}
			continue
		}
		val, err := read(m, o, v.Dir)
		if err != nil {
			problems = append(problems, cfg.OptionProblem(v, o, hideSecret(m, err)))
			continue
		}
		vals.values = append(vals.values, val)
	}
	if n := len(vals.Encoded()); n > maxEncoded {
		problems = append(problems, cfg.ProblemAt(v.Place, "options",
			fmt.Sprintf("have %d bytes, a plugin takes at most %d", n, maxEncoded), "shorten them"))
	}
	return vals, problems
}

// checkPaths checks what the configuration cannot for a plugin of a file,
// because only the manifest tells its kind.
func (p *Plugin) checkPaths(cfg *config.Config, v *config.Volume) config.Problems {
	switch {
	case p.Runtime == config.RuntimeBuiltin, p.Kind == Protocol && len(v.Paths) > 0, p.Kind == Store && len(v.Paths) == 0:
		return nil
	case p.Kind == Store:
		return config.Problems{cfg.Problem(v.Paths[0].Line, v.KeyOf("path"),
			fmt.Sprintf("%s: plugin %q connects to no server and takes no path", v.Label(), p.Name), "remove [[volume.path]]")}
	}
	return config.Problems{cfg.Problem(v.Line, v.KeyOf("path"), v.Label()+" has no path",
		fmt.Sprintf(`plugin %q needs to know where the server is, add [[volume.path]] with address = "tcp:HOST:PORT" or "unix:PATH"`, p.Name))}
}

// read reads one option as its type.
func read(m manifest.Option, o config.Option, dir string) (value, error) {
	val := value{option: m}
	var err error
	switch m.Type {
	case manifest.Size:
		val.size, err = o.Size()
		val.text = strconv.FormatUint(val.size, 10)
	case manifest.Int:
		val.size, err = notNegative(o)
		val.text = strconv.FormatUint(val.size, 10)
	case manifest.Bool:
		val.on, err = o.Bool()
		val.text = strconv.FormatBool(val.on)
	case manifest.Path:
		val.text, err = o.Path(dir)
	default:
		val.text, err = o.Text()
	}
	if err == nil && strings.ContainsRune(val.text, 0) {
		err = &config.ValueError{What: "holds a NUL byte", Fix: "remove it"}
	}
	return val, err
}

func notNegative(o config.Option) (uint64, error) {
	n, err := o.Int()
	if err == nil && n < 0 {
		err = &config.ValueError{What: fmt.Sprintf("%d is negative", n), Fix: "write 0 or more"}
	}
	return uint64(n), err
}

// hideSecret keeps the value of a secret option out of a message, which may
// repeat it.
func hideSecret(m manifest.Option, err error) error {
	if !m.Secret {
		return err
	}
	return &config.ValueError{What: "has a value that is no " + m.Type.String(), Fix: "its value is secret and not shown; see " + m.Help}
}

func (p *Plugin) missing(cfg *config.Config, v *config.Volume, m manifest.Option) config.Problem {
	line := v.Line
	if len(v.Options) > 0 {
		line = v.LineOf("options")
	}
	fix := fmt.Sprintf("plugin %q needs it, write %s under [volume.options]", p.Name, example(m))
	if m.Help != "" {
		fix += " (" + m.Help + ")"
	}
	return cfg.Problem(line, v.KeyOf("options")+"."+m.Name,
		fmt.Sprintf("%s has no option %s", v.Label(), m.Name), fix)
}

// example is how an option of the type is written.
func example(m manifest.Option) string {
	values := map[manifest.OptionType]string{
		manifest.Size: `"1GiB"`, manifest.Bool: "true", manifest.Int: "1", manifest.Path: `"PATH"`,
	}
	if v, ok := values[m.Type]; ok {
		return m.Name + " = " + v
	}
	return m.Name + ` = "…"`
}

// unknownOption says what may have been meant.
func (p *Plugin) unknownOption(key string) error {
	names := make([]string, 0, len(p.Options))
	for _, m := range p.Options {
		names = append(names, m.Name)
	}
	e := &config.ValueError{What: fmt.Sprintf("is no option of plugin %q", p.Name)}
	switch near := nearest(key, names); {
	case near != "":
		e.Fix = fmt.Sprintf("write %q, or remove it", near)
	case len(names) == 0:
		e.Fix = "remove it, the plugin has none"
	default:
		e.Fix = "its options are " + strings.Join(names, ", ")
	}
	return e
}

// Encoded gives the options as a protocol plugin gets them: "name=value\0" in
// the order of the manifest.
func (v Values) Encoded() []byte {
	var b []byte
	for _, val := range v.values {
		b = append(b, val.option.Name...)
		b = append(b, '=')
		b = append(b, val.text...)
		b = append(b, 0)
	}
	return b
}

// Store gives the options as a store plugin gets them.
func (v Values) Store(vol *config.Volume) store.Options {
	o := store.Options{Volume: vol.Name, ReadOnly: vol.ReadOnly,
		Strings: map[string]string{}, Sizes: map[string]uint64{}, Bools: map[string]bool{}}
	for _, val := range v.values {
		switch val.option.Type {
		case manifest.Size, manifest.Int:
			o.Sizes[val.option.Name] = val.size
		case manifest.Bool:
			o.Bools[val.option.Name] = val.on
		default:
			o.Strings[val.option.Name] = val.text
		}
	}
	return o
}

// Shown gives the options for status and logs: secrets are replaced.
func (v Values) Shown() map[string]string {
	m := make(map[string]string, len(v.values))
	for _, val := range v.values {
		switch {
		case val.option.Secret:
			m[val.option.Name] = "(secret)"
		case val.option.Type == manifest.Size:
			m[val.option.Name] = config.FormatSize(val.size)
		default:
			m[val.option.Name] = val.text
		}
	}
	return m
}

// String keeps secrets out of whatever prints Values.
func (v Values) String() string { return fmt.Sprint(v.Shown()) }

// GoString does so for %#v.
func (v Values) GoString() string { return v.String() }
