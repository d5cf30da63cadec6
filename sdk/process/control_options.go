package process

import (
	"bytes"
	"fmt"
	"strconv"

	"blockengine/sdk/manifest"
	"blockengine/sdk/store"
)

// decodeOptions reads "name=value\0" pairs as the manifest describes them. The
// engine has checked them; what is wrong nevertheless is a fault of the engine's.
func decodeOptions(known []manifest.Option, text []byte) (store.Options, error) {
	o := store.Options{Strings: map[string]string{}, Sizes: map[string]uint64{}, Bools: map[string]bool{}}
	types := map[string]manifest.OptionType{}
	for _, k := range known {
		types[k.Name] = k.Type
	}
	for len(text) > 0 {
		pair, rest, whole := bytes.Cut(text, []byte{0})
		name, value, ok := bytes.Cut(pair, []byte{'='})
		t, is := types[string(name)]
		if !whole || !ok || !is {
			return o, fmt.Errorf("option %.64q is none of this plugin's: the engine sent another plugin's options", name)
		}
		if err := setOption(&o, t, string(name), string(value)); err != nil {
			return o, fmt.Errorf("option %q is no %v", name, t) // without the value, which may be secret
		}
		text = rest
	}
	return o, nil
}

func setOption(o *store.Options, t manifest.OptionType, name, value string) (err error) {
	switch t {
	case manifest.Size, manifest.Int:
		o.Sizes[name], err = strconv.ParseUint(value, 10, 64)
	case manifest.Bool:
		o.Bools[name], err = strconv.ParseBool(value)
	default:
		o.Strings[name] = value
	}
	return err
}
