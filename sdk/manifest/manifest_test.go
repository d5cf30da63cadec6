package manifest

import (
	"encoding/json"
	"reflect"
	"testing"
)

// The text is written by hand; a JSON decoder must read it as it was meant.
func TestAppendJSON(t *testing.T) {
	m := Manifest{
		Name: "p", Version: "1.2 \"x\" \\ \n\x01 ü", ABI: 1<<16 | 23,
		Options: []Option{
			{Name: "a", Type: String, Required: true, Help: "tab\there"},
			{Name: "b", Type: Size, Secret: true},
			{Name: "c", Type: Bool}, {Name: "d", Type: Int}, {Name: "e", Type: Path},
		},
	}
	var got map[string]any
	if err := json.Unmarshal(m.AppendJSON([]byte("x"))[1:], &got); err != nil {
		t.Fatal(err)
	}
	want := map[string]any{
		"kind": "protocol", "name": "p", "version": m.Version, "abi": "1.23", "payload": "direct",
		"options": []any{
			map[string]any{"name": "a", "type": "string", "required": true, "help": "tab\there"},
			map[string]any{"name": "b", "type": "size", "secret": true, "help": ""},
			map[string]any{"name": "c", "type": "bool", "help": ""},
			map[string]any{"name": "d", "type": "int", "help": ""},
			map[string]any{"name": "e", "type": "path", "help": ""},
		},
	}
	if !reflect.DeepEqual(got, want) {
		t.Fatalf("got  %v\nwant %v", got, want)
	}
	m = Manifest{Payload: Copy}
	if err := json.Unmarshal(m.AppendJSON(nil), &got); err != nil || got["payload"] != "copy" {
		t.Fatalf("%v, %v", got["payload"], err)
	}
}

func TestTypeNames(t *testing.T) {
	for o := String; o <= Path; o++ {
		if got, ok := TypeNamed(o.String()); !ok || got != o {
			t.Errorf("%v comes back as %v, %v", o, got, ok)
		}
	}
	if _, ok := TypeNamed("unknown"); ok || OptionType(99).String() != "unknown" {
		t.Error("a type that there is not has a name")
	}
}
