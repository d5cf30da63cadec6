package config

import "time"

// Option is a key of [volume.options]. Its meaning is the plugin's: the methods
// read it as the type that the plugin's manifest asks for. Their errors are
// *ValueError, to be given to Config.OptionProblem.
type Option struct {
	Key   string
	Value any // string, int64, bool or float64 (finite)
	Line  int
}

// Option finds an option by its key.
func (v *Volume) Option(key string) (Option, bool) {
	for _, o := range v.Options {
		if o.Key == key {
			return o, true
		}
	}
	return Option{}, false
}

// Size reads the option as a size in bytes: "4GiB", or an integer.
func (o Option) Size() (uint64, error) { return sizeOf(o.Value) }

// Text reads the option as a string.
func (o Option) Text() (string, error) {
	return optionAs[string](o, "a string", "put it in quotes")
}

// Bool reads the option as a boolean.
func (o Option) Bool() (bool, error) {
	return optionAs[bool](o, "a boolean", "write true or false, without quotes")
}

// Int reads the option as an integer.
func (o Option) Int() (int64, error) {
	return optionAs[int64](o, "an integer", "write a whole number, without quotes")
}

// Float reads the option as a number, whole or not.
func (o Option) Float() (float64, error) {
	if n, ok := o.Value.(int64); ok {
		return float64(n), nil
	}
	return optionAs[float64](o, "a number", "write a number, without quotes")
}

// Duration reads the option as a duration from 0 to limit.
func (o Option) Duration(limit time.Duration) (time.Duration, error) {
	s, err := optionAs[string](o, "a duration", `write a number with a unit in quotes, as in "30s"`)
	if err != nil {
		return 0, err
	}
	return parseDuration(s, "30s", limit)
}

// Path reads the option as a path and makes it absolute: a relative one starts
// at dir, which is Volume.Dir.
func (o Option) Path(dir string) (string, error) {
	s, err := optionAs[string](o, "a path", "put it in quotes")
	if err != nil {
		return "", err
	}
	return parsePath(dir, s)
}

func optionAs[T any](o Option, want, fix string) (T, error) {
	v, ok := o.Value.(T)
	if !ok {
		return v, &ValueError{"is " + describe(o.Value) + ", not " + want, fix}
	}
	return v, nil
}
