;; Asks for something that does not exist.
(func $request (param $p i32) (call $head (i64.const 999) (i64.const 8)))
