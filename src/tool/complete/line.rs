//! A command line up to the word that is completed.

use clap::{Arg, Command};

use super::word::Word;

/// What has been typed before the word.
pub(super) struct Line<'a> {
    command: &'a Command,
    /// The options and arguments with their values.
    given: Vec<(&'a Arg, String)>,
    /// The option that the word is the value of.
    open: Option<&'a Arg>,
    /// How many arguments there are that are no options.
    arguments: usize,
    /// Whether `--` was among the words: only arguments follow.
    is_past_options: bool,
}

/// What can stand in a place.
#[derive(Debug)]
pub(super) enum Wanted<'a, 'b> {
    /// A value of an option or argument, of which this is typed.
    Value(&'a Arg, &'b str),
    Option,
    Command,
    Nothing,
}

impl<'a> Line<'a> {
    /// Reads words. One that is wrong is passed over: the command will say so.
    pub(super) fn read(command: &'a Command, words: &[String]) -> Self {
        let mut line =
            Self { command, given: Vec::new(), open: None, arguments: 0, is_past_options: false };
        words.iter().for_each(|word| line.take(word));
        line
    }

    fn take(&mut self, word: &str) {
        if let Some(option) = self.open.take() {
            self.given.push((option, word.to_owned()));
        } else if word == "--" && !self.is_past_options {
            self.is_past_options = true;
        } else if let Some(long) = word.strip_prefix("--").filter(|_| !self.is_past_options) {
            self.take_long(long);
        } else if let Some(letters) = self.letters(word) {
            self.take_letters(letters);
        } else if let Some(command) =
            self.command.find_subcommand(word).filter(|_| self.arguments == 0)
        {
            self.command = command;
        } else {
            if let Some(argument) = self.argument() {
                self.given.push((argument, word.to_owned()));
            }
            self.arguments += 1;
        }
    }

    fn take_long(&mut self, long: &str) {
        let (name, value) =
            long.split_once('=').map_or((long, None), |(it, value)| (it, Some(value)));
        let Some(option) = self.option(name) else { return };
        match value {
            Some(value) => self.given.push((option, value.to_owned())),
            None if takes_a_word(option) => self.open = Some(option),
            None => {}
        }
    }

    fn take_letters(&mut self, letters: &str) {
        for (place, letter) in letters.char_indices() {
            let has_letter = |arg: &&Arg| arg.get_short() == Some(letter);
            let Some(option) = self.command.get_arguments().find(has_letter) else { return };
            if takes_a_word(option) {
                match letters.get(place + letter.len_utf8()..).filter(|rest| !rest.is_empty()) {
                    Some(value) => self.given.push((option, value.to_owned())),
                    None => self.open = Some(option),
                }
                return;
            }
        }
    }

    /// Returns the letters of a word that is options of one letter. A lone dash is an argument.
    fn letters<'b>(&self, word: &'b str) -> Option<&'b str> {
        word.strip_prefix('-').filter(|rest| !rest.is_empty() && !self.is_past_options)
    }

    fn option(&self, name: &str) -> Option<&'a Arg> {
        let is_it = |arg: &&Arg| {
            let others = arg.get_all_aliases().unwrap_or_default();
            arg.get_long() == Some(name) || others.contains(&name)
        };
        self.command.get_arguments().find(is_it)
    }

    /// Returns the next argument that is no option. The last one can take several words.
    fn argument(&self) -> Option<&'a Arg> {
        let all: Vec<&Arg> = self.command.get_positionals().collect();
        let is_repeated = |arg: &&Arg| arg.get_num_args().is_some_and(|it| it.max_values() > 1);
        let last = all.last().copied().filter(is_repeated);
        all.get(self.arguments).copied().or(last)
    }

    /// Returns what can stand in the place of a word.
    pub(super) fn wanted<'b>(&self, word: &'b str) -> Wanted<'a, 'b> {
        if let Some(option) = self.open {
            return Wanted::Value(option, word);
        }
        if !self.is_past_options && word.starts_with('-') {
            let long = word.strip_prefix("--").and_then(|long| long.split_once('='));
            return match long {
                None => Wanted::Option,
                Some((name, value)) => {
                    self.option(name).map_or(Wanted::Nothing, |option| Wanted::Value(option, value))
                }
            };
        }
        if self.command.has_subcommands() {
            return Wanted::Command;
        }
        match self.argument() {
            Some(argument) => Wanted::Value(argument, word),
            None if self.is_past_options || !word.is_empty() => Wanted::Nothing,
            None => Wanted::Option,
        }
    }

    /// Returns the values of an option or argument, by the name of its field.
    pub(super) fn values(&self, id: &str) -> impl DoubleEndedIterator<Item = &str> {
        let of_it = self.given.iter().filter(move |(arg, _)| arg.get_id() == id);
        of_it.map(|(_, value)| value.as_str())
    }

    /// Returns the options that begin with a word, those that are not hidden.
    pub(super) fn options(&self, word: &str) -> Vec<Word> {
        let of = |arg: &Arg| {
            let text = format!("--{}", arg.get_long()?);
            text.starts_with(word).then(|| Word::new(text, arg.get_help()))
        };
        self.command.get_arguments().filter(|arg| !arg.is_hide_set()).filter_map(of).collect()
    }

    /// Returns the commands that begin with a word.
    pub(super) fn commands(&self, word: &str) -> Vec<Word> {
        let all = self.command.get_subcommands().filter(|command| !command.is_hide_set());
        let found = all.filter(|command| command.get_name().starts_with(word));
        found.map(|command| Word::new(command.get_name().to_owned(), command.get_about())).collect()
    }
}

/// Returns whether the next word is the value of an option.
fn takes_a_word(option: &Arg) -> bool {
    let takes_one = option.get_num_args().is_some_and(|it| it.takes_values());
    takes_one && !option.is_require_equals_set()
}
