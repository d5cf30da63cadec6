;; Gives a record whose size is no multiple of 8.
(func $request (param $p i32) (call $head (i64.const 11) (i64.const 12)) (call $put (i64.const 0)))
