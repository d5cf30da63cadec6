;; Gives a record that is too short for its kind.
(func $request (param $p i32) (call $head (i64.const 11) (i64.const 8)))
