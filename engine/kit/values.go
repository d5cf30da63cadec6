package kit

import (
	"errors"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"

	"blockengine/engine/config"
	"blockengine/sdk/manifest"
)

// values reads options of the form name=value as the manifest describes them,
// and gives them as a plugin gets them: sizes and numbers in decimal.
func values(m manifest.Manifest, given []string) (map[string]string, error) {
	v := map[string]string{}
	var errs []error
	for _, g := range given {
		name, text, ok := strings.Cut(g, "=")
		o := option(m, name)
		switch {
		case !ok:
			errs = append(errs, fmt.Errorf("-o %s: write NAME=VALUE", g))
		case o == nil:
			errs = append(errs, fmt.Errorf("-o %s: the plugin has no such option%s", name, known(m)))
		default:
			value, err := encode(o.Type, text)
			if err != nil {
				errs = append(errs, fmt.Errorf("-o %s: %w", name, err))
			}
			v[name] = value
		}
	}
	for _, o := range m.Options {
		if _, ok := v[o.Name]; o.Required && !ok {
			errs = append(errs, fmt.Errorf("the plugin needs the option %s (%s): add -o %s=VALUE", o.Name, o.Help, o.Name))
		}
	}
	return v, errors.Join(errs...)
}

func option(m manifest.Manifest, name string) *manifest.Option {
	for i := range m.Options {
		if m.Options[i].Name == name {
			return &m.Options[i]
		}
	}
	return nil
}

func known(m manifest.Manifest) string {
	var names []string
	for _, o := range m.Options {
		names = append(names, o.Name)
	}
	if len(names) == 0 {
		return ": it has none"
	}
	return ": it has " + strings.Join(names, ", ")
}

func encode(t manifest.OptionType, text string) (string, error) {
	switch t {
	case manifest.Size:
		n, err := config.ParseSize(text)
		return strconv.FormatUint(n, 10), err
	case manifest.Int:
		n, err := strconv.ParseUint(text, 10, 63)
		if err != nil {
			return "", fmt.Errorf("%q is no number of 0 or more", text)
		}
		return strconv.FormatUint(n, 10), nil
	case manifest.Bool:
		if text != "true" && text != "false" {
			return "", fmt.Errorf("%q is neither true nor false", text)
		}
		return text, nil
	case manifest.Path:
		return filepath.Abs(text)
	}
	if strings.ContainsRune(text, 0) {
		return "", errors.New("it holds a NUL byte")
	}
	return text, nil
}

// encoded gives the values as they travel: "name=value\0" in the manifest's order.
func encoded(m manifest.Manifest, v map[string]string) []byte {
	var b []byte
	for _, o := range m.Options {
		if text, ok := v[o.Name]; ok {
			b = append(append(append(append(b, o.Name...), '='), text...), 0)
		}
	}
	return b
}
