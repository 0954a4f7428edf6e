/// Whether `role` lies below `ancestor` in the tree of roles ("a/b" below "a").
public func isStrictSubrole(_ role: String, of ancestor: String) -> Bool { role.hasPrefix(ancestor + "/") }

/// What is wrong with a role's name; nil if nothing. "*" is valid.
public func roleFault(_ role: String) -> String? {
    if role == "*" { return nil }
    if role.isEmpty { return "Empty role name is invalid" }
    if role.hasPrefix("/") { return "Role '\(role)' cannot start with a slash" }
    if role.hasSuffix("/") { return "Role '\(role)' cannot end with a slash" }
    for component in role.split(separator: "/", omittingEmptySubsequences: false) {
        if component.isEmpty { return "Role '\(role)' cannot contain two adjacent slashes" }
        if component == "." || component == ".." {
            return "Role '\(role)' cannot include '\(component)' as a component"
        }
        if component == "*" { return "Role '\(role)' cannot include '*' as a component" }
        if component.hasPrefix("-") { return "Role component '\(component)' is invalid: cannot start with a dash" }
        for scalar in component.unicodeScalars where scalar.properties.isWhitespace || scalar.value == 8 {
            return "Role component '\(component)' is invalid: contains whitespace or backspace"
        }
    }
    return nil
}
